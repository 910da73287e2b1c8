"""The rules of a policy, compiled once, and the first of them that matches a request."""

from collections.abc import Sequence

from msgspec import Struct

from config.policy import Policy, Rule
from policies.answers import Holds
from policies.conditions import Condition, Scene, compile_when, every
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
    """`steps` are the rules as they are asked: gates, and what of a `when` no gate decides."""

    name: str
    policy: Policy
    rules: tuple[CompiledRule, ...]
    steps: tuple[tuple[tuple[Gate, ...], Holds], ...]


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
    steps = zip(gates(told), map(every, rests), strict=True)
    return CompiledPolicy(name, policy, rules, tuple(steps))


def _counted_by(rule: Rule) -> str:
    """The model whose tokens a rule counts: the first that would answer."""
    return rule.use.models[0] if rule.use is not None and rule.use.models else ""


def decide(policy: CompiledPolicy, facts: Facts) -> CompiledRule | Pending:
    """The first rule that matches, or the fact that must be fetched to tell which that is."""
    steps = policy.steps
    asked: Bits = 0
    running: Bits = (1 << len(steps)) - 1
    while running:
        rule = running & -running  # the first of them
        gates, rest = steps[n := rule.bit_length() - 1]
        for number, let in gates:
            if not asked & number:
                asked |= number
                running &= let(facts)
                if not running & rule:
                    break
        else:
            answer = rest(facts)
            if answer is True:
                return policy.rules[n]
            if answer is not False:
                return answer
            running ^= rule
    return policy.rules[-1]  # which has no condition in any file that is loaded


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
