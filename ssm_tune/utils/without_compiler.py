"""Keeps PyTorch's compiler, torch._dynamo, out of a process that does not use it.

PyTorch's optimizers import it to tell it where it may not compile, which takes 1 to 3 s of a start. A stand-in takes
those calls; whatever else is asked of it imports the compiler after all.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"


class _StandIn(ModuleType):
    """Of torch._dynamo what does nothing while nothing is compiled."""

    @staticmethod
    def graph_break(*args: Any, **kwargs: Any) -> None:
        """A place where compiled code would be left."""

    @staticmethod
    def disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The function, which is not to be compiled."""
        return fn if fn is not None else lambda found: found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # whoever looks at all modules is no user of this one
            raise AttributeError(name)
        return getattr(_compiler(), name)


def _compiler() -> ModuleType:
    """The compiler itself, in the stand-in's place."""
    import torch

    if isinstance(sys.modules.get(_NAME), _StandIn):
        del sys.modules[_NAME]
        vars(torch).pop("_dynamo", None)
    return importlib.import_module(_NAME)


def leave_out_compiler() -> None:
    """Put the stand-in into the compiler's place, unless the compiler is there already."""
    import torch

    if _NAME not in sys.modules:
        sys.modules[_NAME] = torch._dynamo = _StandIn(_NAME)
