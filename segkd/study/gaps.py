"""What stands on a page where a cell needs something that is not here: a sentence with the remedy, and the page goes on."""

from __future__ import annotations

from collections.abc import Iterator

from segkd.registry import UserError

GAP = "application/vnd.segkd.gap+json"  # an output of this kind marks the cell
START = "from segkd.study.gaps import install; install()"  # what the kernel of such a page begins with


def allowed() -> list[str]:
    """Names of the errors that leave a gap: bad input, and the names that a cell above then could not define."""
    return ["NameError", *_names(UserError)]


def _names(kind: type) -> Iterator[str]:
    yield kind.__name__
    for below in kind.__subclasses__():
        yield from _names(below)


def install() -> None:
    """In a notebook's kernel: a `UserError` becomes a gap, and so does a NameError after one; all else stays an error."""
    from IPython import get_ipython
    from IPython.core.ultratb import AutoFormattedTB

    shell, seen = get_ipython(), []

    def handler(shell, kind, error, trace, tb_offset=None):
        """IPython's: ``kind`` and ``error`` are what a cell raised."""
        if issubclass(kind, NameError) and not seen:
            found = AutoFormattedTB(mode="Plain").structured_traceback(kind, error, trace, tb_offset=tb_offset)
            shell._showtraceback(kind, error, found)
            return
        seen.append(error)
        show("Needs what the cell above could not make." if issubclass(kind, NameError) else str(error))

    shell.set_custom_exc((UserError, NameError), handler)


def show(reason: str) -> None:
    """The sentence in place of the cell's output."""
    from IPython.display import display

    display({GAP: {"reason": reason}, "text/plain": f"Not shown here: {reason}"}, raw=True)


def gaps_of(cell) -> list[str]:
    """The reasons why a cell of an executed notebook shows less than it could."""
    return [output["data"][GAP]["reason"] for output in cell.get("outputs", []) if GAP in output.get("data", {})]
