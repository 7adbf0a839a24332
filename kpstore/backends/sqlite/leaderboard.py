"""Pages of the leaderboard without counting from its top: it is cut into parts, each with a count.

Walking over the entries of an index takes 20 ns each: fast enough within a part,
too slow over half a million agents. The counts are kept by triggers, so that
whatever writes to `reputation` cannot leave them wrong.
"""

from __future__ import annotations

import math
import sqlite3

# A part that reaches this many agents is split in two: walking to its end takes 0.2 ms. One that falls below
# an eighth joins the one above it, so that 1,000,000 agents are in a few hundred parts at most.
PART = 8192

# A part begins at the agent with this rank (the score, negated) and position, in ascending order of both, and
# ends where the next begins. The first one begins before all agents.
TABLE = """
    rank NOT NULL,
    position INTEGER NOT NULL,
    agents INTEGER NOT NULL,
    PRIMARY KEY (rank, position)
"""
_MAIN = "reputation"


def _part_of(row: str) -> str:
    return (
        "(SELECT rank, position FROM leaderboard_parts"
        f" WHERE (rank, position) <= (-{row}.score, {row}.position)"
        " ORDER BY rank DESC, position DESC LIMIT 1)"
    )


def _count(row: str, change: int) -> str:
    return (
        f"UPDATE leaderboard_parts SET agents = agents + {change} WHERE (rank, position) = {_part_of(row)};"
    )


def _triggers(part: int) -> dict[str, str]:
    half = part // 2
    return {
        f"{_MAIN}_insert_counts AFTER INSERT ON {_MAIN}": _count("NEW", 1),
        f"{_MAIN}_delete_counts AFTER DELETE ON {_MAIN}": _count("OLD", -1),
        f"{_MAIN}_update_counts AFTER UPDATE OF score ON {_MAIN}"
        f" WHEN {_part_of('OLD')} <> {_part_of('NEW')}": _count("OLD", -1) + _count("NEW", 1),
        f"leaderboard_parts_split AFTER UPDATE ON leaderboard_parts WHEN NEW.agents >= {part}": f"""
            INSERT INTO leaderboard_parts
                SELECT -score, position, NEW.agents - {half} FROM (
                    SELECT score, position FROM (
                        SELECT score, position FROM {_MAIN}
                        WHERE score = -NEW.rank AND position >= NEW.position
                        ORDER BY position LIMIT {half + 1}
                    )
                    UNION ALL
                    SELECT score, position FROM (
                        SELECT score, position FROM {_MAIN}
                        WHERE score < -NEW.rank ORDER BY score DESC, position LIMIT {half + 1}
                    )
                    LIMIT 1 OFFSET {half}
                );
            UPDATE leaderboard_parts SET agents = {half} WHERE rank = NEW.rank AND position = NEW.position;
        """,
        f"leaderboard_parts_join AFTER UPDATE ON leaderboard_parts WHEN NEW.agents < {part // 8}"
        " AND NEW.rank > -9e999": """
            DELETE FROM leaderboard_parts WHERE rank = NEW.rank AND position = NEW.position;
            UPDATE leaderboard_parts SET agents = agents + NEW.agents WHERE (rank, position) = (
                SELECT rank, position FROM leaderboard_parts WHERE (rank, position) < (NEW.rank, NEW.position)
                ORDER BY rank DESC, position DESC LIMIT 1
            );
        """,
    }


def create_parts(db: sqlite3.Connection, part: int = PART) -> None:
    """Make the parts of the agents that there are, and the triggers, unless they are there."""
    if db.execute("SELECT 1 FROM leaderboard_parts").fetchone() is None:
        parts = db.execute(
            "SELECT rank, position, agents FROM ("
            " SELECT rank, position, COUNT(*) AS agents, MIN(place) FROM ("
            "  SELECT -score AS rank, position,"
            "  ROW_NUMBER() OVER (ORDER BY score DESC, position) - 1 AS place"
            f"  FROM {_MAIN}) GROUP BY place / {part // 2})"
        ).fetchall() or [(0.0, 0, 0)]
        parts[0] = (-math.inf, 0, parts[0][2])
        db.executemany("INSERT INTO leaderboard_parts (rank, position, agents) VALUES (?, ?, ?)", parts)
    for head, body in _triggers(part).items():
        db.execute(f"CREATE TRIGGER IF NOT EXISTS {head} BEGIN {body} END")


def leaderboard_positions(db: sqlite3.Connection, offset: int, limit: int) -> tuple[list[int], int]:
    """The positions of a page of agents by score descending, then position; and how many agents there are."""
    total = 0
    start: tuple[float, int] | None = None
    within = 0
    for rank, position, agents in db.execute(
        "SELECT rank, position, agents FROM leaderboard_parts ORDER BY rank, position"
    ):
        if total <= offset < total + agents:
            start, within = (-rank, position), offset - total
        total += agents
    if start is None or limit == 0:
        return [], total
    score, first = start
    ties = f"FROM {_MAIN} WHERE score = ? AND position >= ?"
    found = db.execute(
        f"SELECT position {ties} ORDER BY position LIMIT ? OFFSET ?", (score, first, limit, within)
    ).fetchall()
    if len(found) < limit:
        if found:
            within = 0
        else:
            (passed,) = db.execute(
                f"SELECT COUNT(*) FROM (SELECT 1 {ties} LIMIT ?)", (score, first, within)
            ).fetchone()
            within -= passed
        found += db.execute(
            f"SELECT position FROM {_MAIN} WHERE score < ? ORDER BY score DESC, position LIMIT ? OFFSET ?",
            (score, limit - len(found), within),
        ).fetchall()
    return [position for (position,) in found], total
