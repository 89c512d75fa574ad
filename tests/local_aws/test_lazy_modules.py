"""Modules that run when they are first used, by several threads at once."""

from __future__ import annotations

import sys
import threading

import pytest

from local_aws.lazy_modules import LazyModules

SECONDS = 20
FILES = {
    "lazypack/__init__.py": "",
    "lazypack/gate.py": "import threading\nruns, other = threading.Event(), threading.Event()\nstarts = []\n",
    "lazypack/outer.py": """
from lazypack import gate
gate.other.set()
from lazypack.parts import slow
seen = getattr(slow, "x", None)
""",
    "lazypack/parts/__init__.py": "",
    "lazypack/parts/slow.py": f"""
from lazypack import gate
gate.starts.append(1)
gate.runs.set()
gate.other.wait({SECONDS})
from lazypack import outer
x = 1
""",
    "lazypack/parts/once.py": f"""
from lazypack import gate
gate.starts.append(1)
gate.runs.set()
gate.other.wait({SECONDS})
x = 1
""",
    "lazypack/parts/broken.py": "raise RuntimeError('broken')",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of which the modules in `parts` are lazy."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    LazyModules("lazypack.parts").install()
    yield __import__("lazypack.gate").gate
    for name in [n for n in sys.modules if n.startswith("lazypack")]:
        del sys.modules[name]


def started(*calls):
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def ended(threads):
    for thread in threads:
        thread.join(SECONDS)
    return not any(thread.is_alive() for thread in threads)


def test_two_threads_that_need_each_others_modules_both_go_on(package):
    """One runs a lazy module that imports what the other one imports, which uses the lazy module."""
    from lazypack.parts import slow

    def imports():
        package.runs.wait(SECONDS)
        import lazypack.outer  # noqa: F401

    assert ended(started(lambda: slow.x, imports))
    assert (slow.x, package.starts) == (1, [1])


def test_a_module_runs_once_and_who_comes_meanwhile_waits(package):
    from lazypack.parts import once

    found = []
    threads = started(*[lambda: found.append(once.x)] * 3)
    package.runs.wait(SECONDS)
    assert found == []
    package.other.set()
    assert ended(threads)
    assert (found, package.starts) == ([1, 1, 1], [1])


def test_a_module_that_cannot_run_says_so_each_time(package):
    from lazypack.parts import broken

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            assert broken.x
