"""What a scenario file cannot say. Every module here is found by the suite; see
`kpstore_conformance.check`.
"""
