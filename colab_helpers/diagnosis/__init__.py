"""The doctor: tests what works on this machine, with remedies for problems; and the benchmark."""

from colab_helpers.diagnosis.doctor import diagnose
from colab_helpers.diagnosis.findings import Check, CheckStatus, Diagnosis

__all__ = ["Check", "CheckStatus", "Diagnosis", "diagnose"]
