"""Match, deliver, log, retry: read `pipeline.py` from top to bottom first."""
