"""Starts jobs: ``charmrun +p4 prog.py``, ``python -m charmrun.start +p4 prog.py``."""
