"""Builds the API reference with pdoc; `docs.sh` calls it. Exits with 1 and the warnings, if any."""

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import recjax


def main(folder: Path) -> None:
    names = ["recjax", *(m.name for m in pkgutil.walk_packages(recjax.__path__, "recjax."))]
    names = [name for name in names if "._" not in name and ".testing" not in name]
    for name in names:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):  # lazy names: pdoc reads the namespace
            setattr(module, public, getattr(module, public))
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        # A package brings its modules along, but not those that its `__all__` leaves out.
        warnings.filterwarnings("ignore", "The module specification")
        # A NamedTuple with postponed annotations: pdoc shows these as the text that they are.
        warnings.filterwarnings("ignore", "Error parsing type annotation ForwardRef")
        pdoc.pdoc(*names, r"!.*\._", r"!recjax\.testing", output_directory=folder)
    if found:
        sys.exit("\n".join(str(warning.message) for warning in found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
