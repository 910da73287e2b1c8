"""The rules of a policy, compiled once, and the first of them that matches a request."""

from collections.abc import Sequence

from msgspec import Struct

from config.policy import Policy, Rule
from policies.conditions import Condition, Holds, Scene, compile_when, every
from policies.facts import Facts, Pending
from policies.gates import Bits, Gate, gates
from policies.wordings import Wordings


class CompiledRule(Struct, frozen=True, eq=False):
    """`number` counts from 1; `line` is that of the file, 0 when it is not known."""

    number: int
    name: str | None
    line: int
    rule: Rule
    conditions: tuple[Condition, ...]

    @property
    def label(self) -> str:
        return self.name or str(self.number)


class CompiledPolicy(Struct, frozen=True, eq=False):
    """`rests` are what of each rule's conditions no gate decides."""

    name: str
    policy: Policy
    rules: tuple[CompiledRule, ...]
    gates: tuple[Gate, ...]
    rests: tuple[Holds, ...]


class Tried(Struct, frozen=True):
    """One rule on the way to a decision, and what made it match or fail."""

    rule: CompiledRule
    matched: bool
    why: str


def compile_policy(name: str, policy: Policy, lines: Sequence[int] = ()) -> CompiledPolicy:
    """Never raises for a policy that the schema takes."""
    wordings = Wordings()
    rules = tuple(
        CompiledRule(
            number=n + 1,
            name=rule.name,
            line=lines[n] if n < len(lines) else 0,
            rule=rule,
            conditions=compile_when(rule.when, Scene(_counted_by(rule), wordings)),
        )
        for n, rule in enumerate(policy.first_match)
    )
    wordings.compiled()
    told = [[each.told for each in rule.conditions if each.told is not None] for rule in rules]
    rests = [[each for each in rule.conditions if each.told is None] for rule in rules]
    return CompiledPolicy(name, policy, rules, gates(told), tuple(map(every, rests)))


def _counted_by(rule: Rule) -> str:
    """The model whose tokens a rule counts: the first that would answer."""
    return rule.use.models[0] if rule.use is not None and rule.use.models else ""


def decide(policy: CompiledPolicy, facts: Facts) -> CompiledRule | Pending:
    """The first rule that matches, or the fact that must be fetched to tell which that is."""
    running = (1 << len(policy.rules)) - 1
    for gate in policy.gates:
        ahead = running & gate.before
        if ahead:
            found = _first(policy, ahead, facts)
            if found is not None:
                return found
            running ^= ahead
        if running & gate.users:
            running &= gate.let(facts)
    # The last rule has no condition in any file that is loaded.
    return _first(policy, running, facts) or policy.rules[-1]


def _first(policy: CompiledPolicy, running: Bits, facts: Facts) -> CompiledRule | Pending | None:
    """The first of some rules that matches, when all their gates have let them through."""
    while running:
        lowest = running & -running
        n = lowest.bit_length() - 1
        answer = policy.rests[n](facts)
        if answer is True:
            return policy.rules[n]
        if answer is not False:
            return answer
        running ^= lowest
    return None


def trail(policy: CompiledPolicy, facts: Facts) -> tuple[Tried, ...] | Pending:
    """Every rule up to the one that matches, each with its reason."""
    chosen = decide(policy, facts)
    if isinstance(chosen, Pending):
        return chosen
    before = [_failed(rule, facts) for rule in policy.rules[: chosen.number - 1]]
    return (*before, _matched(chosen, facts))


def _failed(rule: CompiledRule, facts: Facts) -> Tried:
    failed = next(each for each in rule.conditions if each.holds(facts) is False)
    return Tried(rule, False, failed.why(facts))


def _matched(rule: CompiledRule, facts: Facts) -> Tried:
    facts_found = [condition.why(facts) for condition in rule.conditions]
    return Tried(rule, True, " and ".join(facts_found) or "it has no condition")
