"""The doctor: what works on this machine, found out by trying, with a remedy for what does not."""

from colab_helpers.diagnosis.doctor import diagnose
from colab_helpers.diagnosis.findings import Check, CheckStatus, Diagnosis

__all__ = ["Check", "CheckStatus", "Diagnosis", "diagnose"]
