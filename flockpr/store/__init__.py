"""The store: one lock directory per logical unit, and what it promises.

`base` is the contract, `lockdir` the implementation. The truth is the chain of numbered
commits (`commits`); everything else in a lock directory is a view, a hint or a record.
"""
