"""The explorer's controls and where they stand: core ipywidgets only."""

from __future__ import annotations

import ipywidgets as widgets

EXAMPLES = 20  # of a feature, at most
BY_LOGIT, BY_EXAMPLES = "logit", "examples"
SEARCHES = (
    ("features that raise its logit most (direct path)", BY_LOGIT),
    ("features with their strongest examples on it", BY_EXAMPLES),
)


def add_controls(box: widgets.VBox, *, feature: int, text: str, d_sae: int) -> None:
    """Make the controls, each an attribute of the box with a label of its own; the keyboard reaches each."""
    wide = {"description_width": "8em"}
    full, half, own = (
        widgets.Layout(width="auto"),
        widgets.Layout(width="18em"),
        widgets.Layout(width="auto"),
    )
    area, listing = (
        widgets.Layout(width="auto", height="7em"),
        widgets.Layout(width="auto", height="10em"),
    )
    box.text = widgets.Textarea(value=text, description="Text", style=wide, layout=area)
    box.feature = widgets.BoundedIntText(
        value=feature, min=0, max=d_sae - 1, description="Feature", style=wide, layout=half
    )
    box.maximum = widgets.BoundedFloatText(
        value=0, min=0, max=1e9, step=0.1, description="Maximum", style=wide, layout=half
    )
    box.maximum.tooltip = "the value with the strongest colour; 0 takes the largest in the text"
    box.pin = widgets.Checkbox(value=False, description="Pin scale", indent=False, layout=own)
    box.compare = widgets.Checkbox(
        value=False, description="Compare with a second feature", indent=False, layout=own
    )
    other = feature + 1 if feature + 1 < d_sae else 0
    box.second = widgets.BoundedIntText(
        value=other, min=0, max=d_sae - 1, description="Second feature", style=wide, layout=half
    )
    box.second.disabled = True
    box.output, box.message = widgets.HTML(layout=full), widgets.HTML(layout=full)
    box.token = widgets.SelectionSlider(
        options=[("0", 0)], description="Token", style=wide, layout=full
    )
    box.fires = widgets.Select(options=(), description="Fires here", style=wide, layout=listing)
    box.search = widgets.Text(
        description="Search token",
        placeholder="such as ·return",
        continuous_update=False,
        style=wide,
        layout=full,
    )
    box.search_by = widgets.Dropdown(
        options=SEARCHES, description="Search for", style=wide, layout=full
    )
    box.found = widgets.Select(options=(), description="Found", style=wide, layout=listing)
    box.example = widgets.BoundedIntText(
        value=0, min=0, max=EXAMPLES, description="Example", style=wide, layout=half
    )
    box.previous, box.next = (
        widgets.Button(description="Previous example"),
        widgets.Button(description="Next example"),
    )
    box.edit = widgets.Button(description="Edit example", disabled=True)
    box.example_output = widgets.HTML(layout=full)


def arranged(box: widgets.VBox) -> list:
    """The box's children: the controls in rows that wrap."""

    def row(*parts):
        return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap"))

    def column(*parts):
        return widgets.VBox(parts, layout=widgets.Layout(flex="1 1 24em"))

    return [
        box.text,
        row(box.feature, box.maximum, box.pin),
        row(box.second, box.compare),
        box.output,
        box.message,
        row(column(box.token, box.fires), column(box.search, box.search_by, box.found)),
        row(box.example, box.previous, box.next, box.edit),
        box.example_output,
    ]


def set_options(listing: widgets.Select, labels: list[str], features: list[int]) -> None:
    """New options with none chosen."""
    listing.index = None
    listing.options = list(zip(labels, features))
