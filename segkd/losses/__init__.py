"""The losses: one file per method; every module of this folder is imported here, so a new method is one new file."""

import importlib
import pkgutil

from segkd.losses.context import Context, TaskWeight, TrainingData
from segkd.losses.cross_entropy import task_loss
from segkd.losses.method import METHODS, Method, TaskWeighting, TeacherKind, Term, create_method, list_methods
from segkd.losses.rows import LONGER, ROW_HYPER, ROWS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "LONGER", "METHODS", "ROWS", "ROW_HYPER", "Context", "Method", "TaskWeight", "TaskWeighting", "TeacherKind", "Term",
    "TrainingData", "create_method", "list_methods", "task_loss",
]  # fmt: skip
