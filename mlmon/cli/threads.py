"""One thread for linear algebra, unless the environment says otherwise. Imported before NumPy.

The sidecar's matrices are small, and a pool of threads that wait for each other by spinning takes the model
server's cores: on two busy ones, calibrating a baseline took 41 s with it and 2 s without.
"""

from __future__ import annotations

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
