"""What each metric of SAEBench has meant, release by release.

Read in the code of the eleven releases from 0.1.0 to 0.6.0.
"""

from __future__ import annotations

from typing import NamedTuple


class Epoch(NamedTuple):
    """A time in which a metric's name meant one formula."""

    first: str
    last: str
    formula: str


FIRST, LAST = "0.1.0", "0.6.0"


def _always(formula: str, *, since: str = FIRST) -> list[Epoch]:
    return [Epoch(since, LAST, formula)]


_SKLEARN = "probe_accuracy_sklearn"
_ADAMW = "probe_accuracy_adamw"

EPOCHS: dict[str, dict[str, list[Epoch]]] = {
    "core": {
        "ce_loss_score": _always("ce_loss_score"),
        "ce_loss_without_sae": _always("ce_loss_clean"),
        "ce_loss_with_sae": _always("ce_loss_spliced"),
        "ce_loss_with_ablation": _always("ce_loss_ablated"),
        "kl_div_score": _always("kl_div_score"),
        "kl_div_with_sae": _always("kl_div_spliced"),
        "kl_div_with_ablation": _always("kl_div_ablated"),
        "explained_variance": [
            Epoch("0.1.0", "0.4.0", "variance_explained_legacy"),
            Epoch("0.4.1", LAST, "variance_explained_squares"),
        ],
        "explained_variance_legacy": _always("variance_explained_legacy", since="0.4.1"),
        "mse": _always("mse_saebench"),
        "cossim": _always("cosine_similarity"),
        "l0": _always("l0"),
        "l1": [Epoch("0.1.0", "0.3.0", "l1"), Epoch("0.3.1", LAST, "l1_unit_rows")],
        "l2_ratio": _always("l2_ratio"),
        "relative_reconstruction_bias": _always("relative_reconstruction_bias"),
        "l2_norm_in": _always("l2_norm_in"),
        "l2_norm_out": _always("l2_norm_out"),
        "total_tokens_eval_(reconstruction|sparsity_variance)": _always("nominal_tokens"),
        "frac_alive": _always("share_alive", since="0.3.0"),
        r"freq_over_\d+_percent": _always("share_dense", since="0.2.0"),
        r"normalized_freq_over_\d+_percent": _always("share_of_firings_dense", since="0.2.0"),
        "average_max_(encoder|decoder)_cosine_sim": _always("mean_max_cosine", since="0.2.0"),
    },
    "absorption": {
        "mean_absorption_score": [Epoch("0.1.0", "0.2.0", "absorption_rate")],
        "(mean|std_dev)_absorption_fraction_score": [
            Epoch("0.3.0", "0.4.0", "absorption_fraction_all_latents"),
            Epoch("0.4.1", LAST, "absorption_fraction_three_latents"),
        ],
        "(mean|std_dev)_full_absorption_score": [
            Epoch("0.3.0", "0.4.0", "full_absorption_all_letters"),
            Epoch("0.4.1", LAST, "full_absorption_probed_letters"),
        ],
        "(mean|std_dev)_num_split_features": [
            Epoch("0.1.0", "0.4.0", "split_features_all_letters"),
            Epoch("0.4.1", LAST, "split_features_probed_letters"),
        ],
    },
    "autointerp": {
        "autointerp_score": _always("judge_accuracy"),
        "autointerp_std_dev": _always("judge_accuracy_std_dev"),
    },
    "mdl": {
        "description_length": _always("description_length"),
        "mse_loss": _always("root_mse_per_d_in"),
        "within_threshold": _always("within_threshold"),
    },
    "meta_structure": {
        "decoder_fraction_variance_explained": _always("decoder_variance_explained", since="0.5.1"),
        "final_reconstruction_mse": _always("decoder_mse_per_element", since="0.5.1"),
        "train_time_seconds": _always("seconds", since="0.5.1"),
    },
    "ravel": {
        "cause_score": _always("ravel_cause", since="0.4.1"),
        "isolation_score": _always("ravel_isolation", since="0.4.1"),
        "disentanglement_score": _always("ravel_mean", since="0.4.1"),
    },
    "scr": {
        r"scr_(metric|dir1|dir2)_threshold_\d+": [
            Epoch("0.1.0", "0.3.2", "scr_score"),
            Epoch("0.4.0", LAST, "scr_score_guarded"),
        ],
    },
    "sparse_probing": {
        "sae_test_accuracy": _always(_ADAMW),
        r"sae_top_\d+_test_accuracy": _always(_SKLEARN),
        "llm_test_accuracy": [Epoch("0.1.0", "0.3.2", _SKLEARN), Epoch("0.4.0", LAST, _ADAMW)],
        r"llm_top_\d+_test_accuracy": [
            Epoch("0.1.0", "0.3.1", _SKLEARN),
            Epoch("0.3.2", "0.3.2", _ADAMW),
            Epoch("0.4.0", LAST, _SKLEARN),
        ],
    },
    "sparse_probing_sae_probes": {
        r"(llm|sae)(_top_\d+)?_test_(accuracy|auc|f1)": _always("sae_probes_score", since="0.5.1"),
    },
    "tpp": {
        r"tpp_threshold_\d+_total_metric": _always("tpp_difference"),
        r"tpp_threshold_\d+_intended_diff_only": _always("tpp_intended"),
        r"tpp_threshold_\d+_unintended_diff_only": _always("tpp_unintended"),
    },
    "unlearning": {"unlearning_score": _always("unlearning_score")},
}
"""By evaluation, then by a pattern of the metric's name: its meanings in the order of time."""

_OF_LETTERS = "mean (or standard deviation, n - 1) over "
_PROJECTION = "P is a latent's activation times its decoder row's product with the probe"
MEANINGS = {
    "l1_unit_rows": "E sum f, each feature in units of its decoder row's norm (folded)",
    "l2_norm_in": "E ||x||",
    "l2_norm_out": "E ||x_hat||",
    "nominal_tokens": "batches x rows x context size: special tokens too, so not what was counted",
    "share_alive": "share of features that fired at all",
    "share_dense": "share of features that fire on more than this share of tokens",
    "share_of_firings_dense": "the share of all firings that such features have",
    "mean_max_cosine": "mean over features of the largest cosine with another one",
    "absorption_rate": (
        f"{_OF_LETTERS}26 letters of the share of words on which one latent stands in for the "
        "letter's own; only words on which its own latents are silent are asked"
    ),
    "absorption_fraction_all_latents": (
        f"{_OF_LETTERS}26 letters of the mean over words of (all P - P of the letter's own "
        f"latents) / all P, within 0 and 1; {_PROJECTION}; every latent counts"
    ),
    "absorption_fraction_three_latents": (
        f"{_OF_LETTERS}the letters whose probe has F1 above 0.6 of the mean over words of "
        "A / (A + P of the letter's own latents); A is what at most three other latents with "
        "cosine 0.1 to the probe make up for, and 0 below 0.4 of the probe's projection"
    ),
    "full_absorption_all_letters": (
        f"{_OF_LETTERS}26 letters of the share of words on which one latent stands in for the "
        "letter's own (cosine 0.025, 0.4 of the projection)"
    ),
    "full_absorption_probed_letters": (
        f"{_OF_LETTERS}the letters whose probe has F1 above 0.6, of the same share"
    ),
    "split_features_all_letters": f"{_OF_LETTERS}26 letters of the number of the letter's latents",
    "split_features_probed_letters": (
        f"{_OF_LETTERS}the letters whose probe has F1 above 0.6, of the same number"
    ),
    "judge_accuracy": "mean over latents of the judge's share of right answers",
    "judge_accuracy_std_dev": "standard deviation (n - 1) of the same over latents",
    "description_length": (
        "sum over features of H(fires) + P(fires) H(bin), bits per token, features in equal bins"
    ),
    "root_mse_per_d_in": (
        "square root of the mean of e^2 over all elements, divided by d_in; "
        "features moved to the middle of their bins"
    ),
    "within_threshold": "1 if mse_loss is below mse_epsilon_threshold",
    "decoder_variance_explained": (
        "1 - sum ||e||^2 / sum ||w - mean||^2 over decoder rows w, of an SAE trained on them"
    ),
    "decoder_mse_per_element": "mean of the same e^2 over all elements",
    "seconds": "how long that training took",
    "ravel_cause": "share of answers that change to the other entity's attribute, as they should",
    "ravel_isolation": "share of answers about other attributes that stay, as they should",
    "ravel_mean": "mean of cause and isolation",
    "scr_score": (
        "(accuracy after ablation - before) / (clean probe's accuracy - before); scr_metric is "
        "that of the direction with the lower accuracy before"
    ),
    "scr_score_guarded": "the same, and 0 where the clean probe gains less than 0.001",
    _SKLEARN: "mean over data sets, each over its classes, of test accuracy; LogisticRegression",
    _ADAMW: "the same, of a probe trained with AdamW",
    "sae_probes_score": "mean over data sets of the test accuracy, AUC or F1 (sae-probes)",
    "tpp_difference": "loss of accuracy on the class meant - the mean loss on the other classes",
    "tpp_intended": "loss of the probe's accuracy on the class whose latents were ablated",
    "tpp_unintended": "mean loss of accuracy on the other classes",
    "unlearning_score": "1 - lowest WMDP-bio accuracy with MMLU side effects above 0.99",
}
"""Formulas that ``RECONSTRUCTION`` does not have."""
NOTES = {
    "ce_loss_clean": "SAEBench counts special next tokens too",
    "ce_loss_spliced": "SAEBench counts special next tokens too",
    "ce_loss_ablated": "SAEBench counts special next tokens too",
    "kl_div_spliced": "SAEBench counts each row's last token too",
    "kl_div_ablated": "SAEBench counts each row's last token too",
    "relative_reconstruction_bias": "SAEBench takes the mean over batches",
    "variance_explained_legacy": "around the mean of its own batch",
    "l1": "SAEBench sums f with its sign",
}
"""Where SAEBench counts other tokens, or takes other means, than saework."""
SUPERSEDED = {
    "variance_explained_legacy": (
        "a mean of ratios, each around its own batch's mean; SAEBench 0.4.1 (#61) replaced it"
    ),
    "variance_explained_squares": (
        "a slip of SAEBench 0.4.1 to 0.6.0, and no variance; sae_lens mended its own in July 2026"
    ),
    "mse_saebench": (
        "the error per token once more divided by the batch's tokens, so it depends on the batch; "
        "saebench.convert multiplies it back"
    ),
    "absorption_rate": "SAEBench 0.3.0 (#48) replaced it",
    "absorption_fraction_all_latents": (
        "SAEBench 0.4.1 (#62) counts three latents, above thresholds (1.4 to 9.4 times less)"
    ),
    "full_absorption_all_letters": "since SAEBench 0.4.1 (#67) a letter needs a good probe",
    "split_features_all_letters": "since SAEBench 0.4.1 (#67) a letter needs a good probe",
    "scr_score": "since SAEBench 0.4.0 a probe that gains less than 0.001 counts as 0",
}
"""Definitions that were replaced, or should be: what ``lint`` says of them."""
