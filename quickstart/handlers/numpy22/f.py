"""Add with numpy 2.2; numpy21 beside it has another version, and neither minds.

$ curl -s -X POST localhost:5000/run/numpy22 -d '[1, 2, 3, 4]'
{"result": 10, "numpy-version": "2.2.…"}
"""

import numpy as np


def f(event):
    return {"result": int(np.array(event).sum()), "numpy-version": np.__version__}
