"""Latency: data sets, the measuring of budgets on them, what the figures are compared with, and how it is
told.
"""
