"""How fast a backend is: `kpstore bench`.

`cli` takes the command apart, `session` runs it: for each backend, size and section (one store, or the
load of all of them) a process of its own (`worker`) fills a store, reopens it and measures its
`operations` by the method in `measure`, beside the `floors` of the machine. What it found is a `result`,
which `tables` and `picture` show, `targets` judges and `compare` holds against an older one.
"""
