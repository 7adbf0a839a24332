"""Generated mutants: small changes to the library's own code, which the suite must notice.

    PYTHONPATH=tests python -m mutation baseline           which case runs which line; ten minutes
    PYTHONPATH=tests python -m mutation run [FILE …]       the mutants of these files, or of all
    PYTHONPATH=tests python -m mutation summary            the score, and the survivors without an explanation

`generating` makes the mutants, `running` runs cases on one, `campaign` keeps what came out in the folder
`.mutation/`, and `equivalent.yaml` says of survivors why no test can tell them from the original.
"""
