from __future__ import annotations

from tests.batch.conftest import batch
from tests.pipeline.conftest import faceless_models

__all__ = ["batch", "faceless_models"]
