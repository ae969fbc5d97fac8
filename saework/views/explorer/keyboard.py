"""Keys that are pressed in the explorer stay in it, and the slider has a name."""

from __future__ import annotations

import sys

import anywidget

BOX = "saework-explorer"
"""The class of the box that is guarded."""
_SCRIPT = """
// JupyterLab acts on a key (`x` cuts the cell, an arrow leaves it) unless it was pressed in an
// element with this attribute. The slider that ipywidgets draws has no accessible name.
const FOCUSABLE = "select, input, textarea, button, [tabindex]";
function guard(box) {
  for (const control of box.querySelectorAll(FOCUSABLE)) {
    control.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  for (const handle of box.querySelectorAll("[role=slider]:not([aria-label])")) {
    const label = handle.closest(".widget-inline-hbox")?.querySelector("label");
    handle.setAttribute("aria-label", label?.textContent || "slider");
  }
}
function render({ el }) {
  let stopped = false;
  let observer;
  function find() {
    const box = el.closest(".BOX");
    if (stopped) return;
    if (!box) {
      setTimeout(find, 50);  // not in the page yet
      return;
    }
    guard(box);
    observer = new MutationObserver(() => guard(box));
    observer.observe(box, { childList: true, subtree: true });
  }
  find();
  return () => {
    stopped = true;
    observer?.disconnect();
  };
}
export default { render };
""".replace("BOX", BOX)


class KeyboardGuard(anywidget.AnyWidget):
    """Draws nothing. The box with the class ``BOX`` around it keeps the keys pressed in it."""

    _esm = _SCRIPT


def keyboard_guards() -> list[KeyboardGuard]:
    """One guard; none on Colab, which has no such shortcuts and asks before it draws a widget."""
    return [] if "google.colab" in sys.modules else [KeyboardGuard()]
