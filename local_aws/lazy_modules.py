"""Modules that run when somebody first uses them, so that a start pays for what it uses.

Belongs here: the import hook. Does not belong here: which package it is for (`ministack_bridge.py`).

ministack's CloudFormation imports the modules of nearly all services, 8 MB of source, and a template needs seven of
them. Where there is no bytecode (`PYTHONDONTWRITEBYTECODE`, a read-only image) they would all be compiled, 4 s of CPU
at each start. `importlib.util.LazyLoader` does not help: the second `import` statement of a module looks at its
`__spec__`, which loads it.
"""

from __future__ import annotations

import sys
from importlib import _bootstrap  # its locks are not public
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.machinery import ModuleSpec

# What the import machinery itself looks at, which is there without running anything.
_OF_THE_MACHINERY = frozenset(
    {"__spec__", "__name__", "__loader__", "__package__", "__path__", "__file__", "__cached__", "__class__", "__dict__"}
)
# The lock of each module that `import` itself takes: only the import machinery sees who waits for whom, and lets one of
# two threads pass that import each other's modules. Any lock of our own would let them wait for ever.
_machinery: Any = _bootstrap


class _LazyModule(ModuleType):
    """A module that has not run yet. The first look at anything in it runs it, and makes it an ordinary module."""

    def __getattribute__(self, name: str) -> Any:
        if name not in _OF_THE_MACHINERY:
            _load(self, name)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OF_THE_MACHINERY:
            _load(self, name)
        ModuleType.__setattr__(self, name, value)


def _load(module: _LazyModule, name: str) -> None:
    """Run a module, unless what is asked for is there only when it has run.

    Raises:
        AttributeError: It is.
    """
    lock = _machinery._get_module_lock(ModuleType.__getattribute__(module, "__name__"))  # noqa: SLF001
    try:
        lock.acquire()
    except _machinery._DeadlockError:  # noqa: SLF001
        # The thread that runs it waits for what this one imports: it is seen half made, as `import` has it too.
        return
    try:
        _run(module, name)
    finally:
        lock.release()


def _run(module: _LazyModule, name: str) -> None:
    if ModuleType.__getattribute__(module, "__class__") is not _LazyModule:
        return
    loader = ModuleType.__getattribute__(module, "__spec__").loader
    if loader.runs:  # what it imports looks back at it, in this very thread; all others wait for the lock
        return
    if name in loader.absent:
        raise AttributeError(f"{loader.name} has not been used: it has no {name}")
    loader.runs = True
    try:
        loader.real.exec_module(module)
    finally:
        loader.runs = False
    object.__setattr__(module, "__class__", ModuleType)


class _LazyLoader(Loader):
    """Makes the module, and runs nothing."""

    def __init__(self, spec: ModuleSpec, absent: frozenset[str]) -> None:
        self.name = spec.name
        self.real: Any = spec.loader
        self.absent = absent
        self.runs = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LazyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


class LazyModules(MetaPathFinder):
    """Finds the modules of one package, as lazy ones. Packages inside of it are ordinary."""

    def __init__(self, package: str, absent: Iterable[str] = ()) -> None:
        """Say which.

        Args:
            package: The package; its direct modules are lazy.
            absent: Names that a module does not have before it has run: what others look for in all that is loaded,
                to save or to stop it.
        """
        self.prefix = f"{package}."
        self._absent = frozenset(absent)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of the package; None for all others."""
        if not fullname.startswith(self.prefix) or "." in fullname.removeprefix(self.prefix):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or spec.submodule_search_locations is not None:
            return spec
        spec.loader = _LazyLoader(spec, self._absent)
        return spec

    def install(self) -> None:
        """Use it from now on."""
        if not any(isinstance(f, LazyModules) and f.prefix == self.prefix for f in sys.meta_path):
            sys.meta_path.insert(0, self)
