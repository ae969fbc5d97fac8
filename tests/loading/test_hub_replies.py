"""What a server of the Hub answers: tokens are hidden, and an ETag is a plain name."""

from __future__ import annotations

import pytest
from huggingface_hub import file_download

from saework.loading.hub import explained
from saework.loading.hub_replies import check_etags, without_tokens


def test_tokens_cannot_be_read(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a secret of no known form")
    sent = "you sent Authorization: Bearer xyz.1, hf_abcDEF123, a secret of no known form"
    assert without_tokens(sent) == "you sent Authorization: Bearer [token], [token], [token]"
    error = explained(ValueError(sent), "f", "owner/name")
    assert "f of owner/name could not be downloaded (ValueError: you sent" in str(error)
    assert without_tokens("pip install hf_xet, hf_hub_download") == (
        "pip install hf_xet, hf_hub_download"
    )
    assert "xyz" not in str(error) and "secret" not in str(error) and "abcDEF" not in str(error)


def test_a_token_that_no_header_can_hold():
    try:
        "hf_äöü".encode("ascii")
    except UnicodeEncodeError as error:
        told = str(explained(error, "f", "owner/name"))
    assert "has characters that no token has; make a new one" in told and "äöü" not in told


@pytest.mark.parametrize("etag", ["../../escaped", "a/b", "..", "a\\b", "x" * 300])
def test_an_etag_that_is_a_path_is_refused(etag):
    check_etags()
    with pytest.raises(ValueError, match="is no plain name, and nothing was written"):
        file_download._normalize_etag(f'"{etag}"')


def test_the_hubs_own_etags_pass_and_the_check_is_put_in_once():
    check_etags()
    checked = file_download._normalize_etag
    check_etags()
    assert file_download._normalize_etag is checked
    assert checked('W/"0a1b-2c"') == "0a1b-2c" and checked(None) is None
