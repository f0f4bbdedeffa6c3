"""Add with numpy 2.1; numpy22 beside it has another version, and neither minds.

$ curl -s -X POST localhost:5000/run/numpy21 -d '[1, 2]'
{"result": 3, "numpy-version": "2.1.…"}
"""

import numpy as np


def f(event):
    return {"result": int(np.array(event).sum()), "numpy-version": np.__version__}
