"""The store: one lock directory per logical unit, and what it promises.

`base` is the contract, `directory` what every store has, `opening` opens the one that lies there.
The truth is the chain of numbered transactions: files (`lockdir`, `commits`), or rows of a database
(`sqlite`, `database`). Everything else in a lock directory is a view, a hint or a record.
"""
