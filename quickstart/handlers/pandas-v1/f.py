"""Add with pandas 1.5 and the numpy 1.26 that it needs; pandas beside it has newer ones of both, and neither minds.

$ curl -s -X POST localhost:5000/run/pandas-v1 -d '[[0, 1, 2], [3, 4, 2]]'
{"result": 12, "pandas-version": "1.5.…", "numpy-version": "1.26.…"}
"""

import numpy as np
import pandas as pd


def f(event):
    total = int(pd.DataFrame(event).sum().sum())
    return {"result": total, "pandas-version": pd.__version__, "numpy-version": np.__version__}
