"""The conformance suite of kpstore: it proves, clause by clause, that a backend keeps the store contract.

What a backend author uses by name: `kpstore_conformance.target.BackendAdapter` (how the suite gets isolated
stores), and the command `kpstore conformance run --backend NAME`.
"""
