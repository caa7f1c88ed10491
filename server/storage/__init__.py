"""Where the books are kept: a few verbs in base.py, the flat files behind them, durable.py under all of it."""
