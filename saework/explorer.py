"""The widgets: type text, choose a feature, watch the heatmap. Core ipywidgets, no server, no link."""

from __future__ import annotations

from saework._checks import check_feature
from saework.features import feature_activations
from saework.heatmap import TokenHeatmap, token_heatmap
from saework.run import as_tokens
from saework.shelf import Workbook
from saework.tokens import str_tokens

SAMPLE = "def area(width, height):\n    # Multiply the two sides, and return the result.\n    return width * height"


def text_heatmap(workbook: Workbook, text: str, feature: int, *, max_value: float | None = None) -> TokenHeatmap:
    """One feature on one text, as a heatmap; what ``explore`` shows, for readers without a kernel.

    BOS is left out of the picture, as its activation says nothing about the text.
    """
    tokens = as_tokens(workbook.model, text)
    values = feature_activations(workbook.model, workbook.sae, tokens, feature, hook=workbook.hook)[0]
    strings = str_tokens(tokens, workbook.tokenizer)
    if len(strings) > 1:
        strings, values = strings[1:], values[1:]
    return token_heatmap(strings, values, max_value=max_value)


def explore(workbook: Workbook, feature: int = 0, text: str = SAMPLE):
    """A text box, a feature's number and a maximum, which update a heatmap as you type.

    Maximum 0 scales to the text at hand; pin a number to compare texts. Something that cannot be
    shown (a text too long, a feature that does not exist) is said below the box, and the last
    heatmap stays.

    Returns: an ipywidgets box whose parts are ``.text``, ``.feature``, ``.maximum``, ``.output`` (HTML).
    Raises: ValueError for a first feature that does not exist, or a text that cannot be run.
    """
    import ipywidgets as widgets

    d_sae = workbook.sae.W_dec.shape[0]
    wide = widgets.Layout(width="100%")
    box = widgets.VBox(layout=wide)
    box.text = widgets.Textarea(value=text, description="Text", layout=widgets.Layout(width="100%", height="6em"))
    box.feature = widgets.BoundedIntText(value=check_feature(feature, d_sae), min=0, max=d_sae - 1, description="Feature")
    box.maximum = widgets.BoundedFloatText(value=0, min=0, max=1e6, step=0.1, description="Maximum")
    box.output = widgets.HTML(value=_shown(workbook, text, feature, 0), layout=wide)
    box.message = widgets.Label()

    def update(change) -> None:
        try:
            box.output.value = _shown(workbook, box.text.value, box.feature.value, box.maximum.value)
            box.message.value = ""
        except ValueError as error:
            box.message.value = str(error)

    for control in (box.text, box.feature, box.maximum):
        control.observe(update, names="value")
    box.children = [box.text, widgets.HBox([box.feature, box.maximum]), box.message, box.output]
    return box


def _shown(workbook: Workbook, text: str, feature: int, maximum: float) -> str:
    return text_heatmap(workbook, text, feature, max_value=maximum or None)._repr_html_()
