"""segkd: a reproducible study of knowledge distillation for semantic segmentation.

The public names load on first use, so ``import segkd`` stays quick.
"""

import warnings
from importlib import import_module

warnings.filterwarnings("ignore", message="IProgress not found")  # timm's downloads ask for a widget we do not use

_WHERE = {
    "Prediction": "segkd.prediction",
    "UserError": "segkd.registry",
    "RunConfig": "segkd.config",
    "adapt": "segkd.models",
    "create_model": "segkd.models",
    "list_models": "segkd.models",
    "create_method": "segkd.losses",
    "list_methods": "segkd.losses",
    "ROWS": "segkd.losses",
    "create_dataset": "segkd.data",
    "list_datasets": "segkd.data",
    "Run": "segkd.runs",
    "run": "segkd.runs",
    "open_study": "segkd.study.numbers.study",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'segkd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
