"""The trainer of the WRPO family: rows, packing, losses, runs and launch."""

import warnings

# TRL warns about vLLM's version wherever it looks for vLLM, and nothing here generates through TRL
warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning, module="trl")
