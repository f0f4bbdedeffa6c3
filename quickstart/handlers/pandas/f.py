"""Add with pandas, which brings numpy along.

$ curl -s -X POST localhost:5000/run/pandas -d '[[1, 2], [3, 4], [2, 3]]'
{"result": 15, "pandas-version": "…"}
"""

import pandas as pd


def f(event):
    return {"result": int(pd.DataFrame(event).sum().sum()), "pandas-version": pd.__version__}
