"""The scenario engine: from YAML by way of nodes, a typed document, cases and steps to a verdict."""

from kpstore_conformance.scenario.budget import Budget, BudgetCase, Level
from kpstore_conformance.scenario.catalogue import CAPABILITIES, INSPECTORS
from kpstore_conformance.scenario.clauses import CLAUSES
from kpstore_conformance.scenario.document import Case, Scenario, ScenarioFile, discover, load_file
from kpstore_conformance.scenario.failure import Failure
from kpstore_conformance.scenario.runner import CaseResult, Target, run_case
from kpstore_conformance.scenario.show import redact
from kpstore_conformance.scenario.yaml_nodes import Problem, ScenarioFileError

__all__ = [
    "CAPABILITIES",
    "CLAUSES",
    "INSPECTORS",
    "Budget",
    "BudgetCase",
    "Case",
    "CaseResult",
    "Failure",
    "Level",
    "Problem",
    "Scenario",
    "ScenarioFile",
    "ScenarioFileError",
    "Target",
    "discover",
    "load_file",
    "redact",
    "run_case",
]
