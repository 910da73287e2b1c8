"""What of a configuration a worker process serves by itself."""

import math

from config.schema import Config, Model


def share_of(config: Config, workers: int) -> Config:
    """The models that need no state but their worker's own, with a worker's part of each limit.

    A model with a `cold` part, or that falls back to one, belongs to the process that owns the
    instances; a worker does not know it. A limit of 3 for 2 workers is 2 for each.
    """
    models = {
        name: _share(model, workers)
        for name, model in config.models.items()
        if not any(config.models[each].cold for each in _reached(config, name))
    }
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    return Config.model_construct(**{**fields, "models": models})  # a copy would keep its indexes


def _reached(config: Config, model: str) -> list[str]:
    """The model, its fallbacks, and theirs."""
    seen = [model]
    for each in seen:
        following = (config.resolve(name) for name in config.models[each].fallback)
        seen.extend(name for name in following if name is not None and name not in seen)
    return seen


def _share(model: Model, workers: int) -> Model:
    if model.hot is None:
        return model
    urls = tuple(
        item.model_copy(update={"max_concurrency": math.ceil(item.max_concurrency / workers)})
        if item.max_concurrency is not None
        else item
        for item in model.hot.urls
    )
    return model.model_copy(update={"hot": model.hot.model_copy(update={"urls": urls})})
