"""What of a configuration a worker process serves by itself."""

import math

from config.schema import Config, Endpoint, Hot, Model, Queue


def share_of(config: Config, workers: int, seat: int) -> Config:
    """The models that need no state but their worker's own, with a worker's part of each limit.

    A model with a `cold` part or a budget, or with a limit that is too small to be divided,
    belongs to the process that owns the instances, and so does one that falls back to such a model;
    a worker does not know it, nor any policy. Of a limit of 3 for 2 workers the first, in seat 0,
    gets 2.
    """
    models = {
        name: _share(config, name, workers, seat)
        for name in config.models
        if not any(_is_owners(config, each, workers) for each in _reached(config, name))
    }
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    fields.update(models=models, policies={})
    return Config.model_construct(**fields)  # a copy would keep its indexes


def _is_owners(config: Config, name: str, workers: int) -> bool:
    model = config.models[name]
    limits = [item.max_concurrency for item in model.hot.urls] if model.hot is not None else []
    too_small = any(limit is not None and limit < workers for limit in limits)
    return model.cold is not None or too_small or config.is_budgeted(name)


def _reached(config: Config, model: str) -> list[str]:
    """The model, its fallbacks, and theirs."""
    seen = [model]
    for each in seen:
        following = (config.resolve(name) for name in config.models[each].fallback)
        seen.extend(name for name in following if name is not None and name not in seen)
    return seen


def _share(config: Config, name: str, workers: int, seat: int) -> Model:
    model, queue = config.models[name], config.settings(name).queue
    longest = min(queue.bytes, config.server.max_body)  # one body must find room
    part = Queue.model_construct(
        requests=math.ceil(queue.requests / workers),
        bytes=max(math.ceil(queue.bytes / workers), longest),
    )
    changed: dict[str, Queue | Hot] = {"queue": part}
    if model.hot is not None:
        urls = tuple(_share_of_endpoint(item, workers, seat) for item in model.hot.urls)
        changed["hot"] = model.hot.model_copy(update={"urls": urls})
    return model.model_copy(update=changed)


def _share_of_endpoint(item: Endpoint, workers: int, seat: int) -> Endpoint:
    if item.max_concurrency is None:
        return item
    each, rest = divmod(item.max_concurrency, workers)
    return item.model_copy(update={"max_concurrency": each + (seat < rest)})
