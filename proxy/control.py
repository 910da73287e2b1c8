"""What is no inference: the list of models, health, metrics and the admin API."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from config.masked import masked
from proxy import describe, wire
from proxy.admin_key import AdminKey
from proxy.devices import device_state
from proxy.gateway import Gateway
from proxy.question import forwarded_question
from router.errors import BadRequest, Forbidden, GatewayError, MethodNotAllowed, NotFound
from router.explain import explain
from router.labels import REMEMBERED
from router.routing import unknown_model

Endpoint = Callable[[Request], Awaitable[Response]]
LOG_LINES = 200


def control_app(gateway: Gateway, key: AdminKey, lifespan: Any) -> Starlette:
    """The Starlette application for everything but inference."""
    public = _Public(gateway)
    admin = _Admin(gateway)
    guarded = _guard(key)
    routes = [
        Route("/", public.root),
        Route("/health", public.health),
        Route("/ready", public.ready),
        Route("/metrics", public.metrics),
        Route("/v1/models", public.models),
        Route("/v1/models/{model:path}", public.model),
        Route("/admin/models", guarded(admin.models)),
        Route("/admin/models/{model:path}/{action}", guarded(admin.act), methods=["POST"]),
        Route("/admin/models/{model:path}", guarded(admin.model)),
        Route("/admin/demand/{model:path}", guarded(admin.demand)),
        Route("/admin/spend", guarded(admin.spend)),
        Route("/admin/devices", guarded(admin.devices)),
        Route("/admin/instances", guarded(admin.instances)),
        Route("/admin/instances/{instance:path}/log", guarded(admin.log)),
        Route("/admin/instances/{instance:path}/{action}", guarded(admin.act_on), methods=["POST"]),
        Route("/admin/explain", guarded(admin.explain), methods=["POST"]),
        Route("/admin/config", guarded(admin.config)),
        Route("/admin/feedback", guarded(admin.feedback), methods=["POST"]),
        Route("/admin/reload", guarded(admin.reload), methods=["POST"]),
        Route("/admin/drain", guarded(admin.drain), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        GatewayError: _gateway_error,
        HTTPException: _http_error,
        Exception: _internal_error,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False  # it would answer before the admin key is asked for
    return app


def _guard(key: AdminKey) -> Callable[[Endpoint], Endpoint]:
    def guarded(endpoint: Endpoint) -> Endpoint:
        async def check(request: Request) -> Response:
            if not key.matches(request.headers.get("authorization")):
                raise Forbidden("the admin API needs 'Authorization: Bearer ADMIN_KEY'")
            return await endpoint(request)

        return check

    return guarded


async def _gateway_error(request: Request, error: GatewayError) -> Response:
    id = request.scope["state"].get("request_id", "")
    headers = {n.decode(): v.decode() for n, v in wire.error_headers(error)}
    return Response(wire.error_body(error, "other", id), error.status, headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    where = f"{request.method} {request.url.path[:100]}"
    if error.status_code == 405:
        return await _gateway_error(request, MethodNotAllowed(f"{where} is not possible"))
    return await _gateway_error(request, NotFound(f"there is no {where}"))


async def _internal_error(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this, so that the server logs it."""
    message = "the gateway failed on this request; its log has the request id"
    return await _gateway_error(request, GatewayError(message))


class _Public:
    """Open to everybody; never asks a backend anything and never wakes one."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def root(self, request: Request) -> Response:
        return JSONResponse(
            {"name": "lamplighter", "base_url": str(request.url_for("models"))[:-7]}
        )

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("OK")

    async def ready(self, request: Request) -> Response:
        if self._gateway.draining:
            return JSONResponse({"status": "draining"}, 503, {"retry-after": "1"})
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        await self._gateway.refresh()
        return Response(self._gateway.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def models(self, request: Request) -> Response:
        snapshot = self._gateway.fleet.snapshot
        config = snapshot.config
        data = [describe.model_object(snapshot, name) for name in config.models]
        data += [describe.policy_object(config, name) for name in config.policies]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        snapshot = self._gateway.fleet.snapshot
        asked = request.path_params["model"]
        config = snapshot.config
        policy = config.policy_names.get(asked)
        if policy is not None:
            return JSONResponse(describe.policy_object(config, policy, shown_as=asked))
        name = config.resolve(asked)
        if name is None:
            raise unknown_model(snapshot, asked)
        return JSONResponse(describe.model_object(snapshot, name, shown_as=asked))


class _Feedback(msgspec.Struct):
    request_id: str
    right: bool


class _Admin:
    """Behind the admin key."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, request: Request) -> Response:
        await self._gateway.refresh()
        models = self._gateway.fleet.snapshot.config.models
        return JSONResponse({"models": [self._state(name) for name in models]})

    async def model(self, request: Request) -> Response:
        await self._gateway.refresh()
        return JSONResponse(self._state(self._name(request)))

    def _state(self, name: str) -> dict[str, Any]:
        gateway = self._gateway
        return describe.model_state(
            gateway.fleet.snapshot,
            name,
            gateway.clock(),
            gateway.in_flight(name),
            gateway.waiting(name),
            gateway.measures,
            gateway.planners.get(name),
        )

    async def demand(self, request: Request) -> Response:
        """All that was measured of what a model's callers do."""
        await self._gateway.refresh()
        gateway, name = self._gateway, self._name(request)
        requests = gateway.in_flight(name) + gateway.waiting(name)
        found = describe.demand(gateway.measures, name, gateway.clock(), requests)
        return JSONResponse({"model": name, **found})

    async def devices(self, request: Request) -> Response:
        """Who has the memory of each shared device, who waits for it, and the last evictions."""
        now_s = self._gateway.clock()
        found = self._gateway.fleet.devices().values()
        return JSONResponse({"devices": [device_state(device, now_s) for device in found]})

    async def spend(self, request: Request) -> Response:
        return JSONResponse(describe.spend(self._gateway.measures.spend))

    async def act(self, request: Request) -> Response:
        """start, drain or stop all instances of a model."""
        name = self._name(request)
        cold = self._gateway.fleet.snapshot.backends[name].cold
        if cold is None:
            raise BadRequest(f"model '{name}' has no 'cold' part, so nothing can be started")
        machine = cold.lifecycle
        actions = {"start": machine.start, "drain": machine.drain, "stop": machine.stop}
        cold.post(_action(actions, request))
        return JSONResponse({"model": name, "action": request.path_params["action"]}, 202)

    async def instances(self, request: Request) -> Response:
        """All of them, those too whose model has left the configuration and that still drain."""
        now_s = self._gateway.clock()
        cold_models = self._gateway.fleet.all_cold()
        data = [each for cold in cold_models for each in describe.instances(cold, now_s)]
        return JSONResponse({"instances": data})

    async def act_on(self, request: Request) -> Response:
        """drain or stop one instance."""
        wanted = request.path_params["instance"]
        for cold in self._gateway.fleet.all_cold():
            if wanted in cold.lifecycle.instances:
                machine = cold.lifecycle
                cold.post(_action({"drain": machine.drain, "stop": machine.stop}, request), wanted)
                action = request.path_params["action"]
                return JSONResponse({"instance": wanted, "action": action}, 202)
        raise NotFound(f"there is no instance '{wanted[:100]}'; GET /admin/instances lists them")

    async def log(self, request: Request) -> Response:
        """The last lines of an instance's own log, also after it ended."""
        wanted = request.path_params["instance"]
        lines = request.query_params.get("lines", str(LOG_LINES))
        if not lines.isdecimal() or not 1 <= int(lines) <= 10_000:
            raise BadRequest("'lines' must be a number from 1 to 10000", param="lines")
        for cold in self._gateway.fleet.all_cold():
            ring = cold.logs.get(wanted)
            if ring is not None:
                return PlainTextResponse("\n".join(ring.tail(int(lines))) + "\n")
        raise NotFound(f"no log of an instance '{wanted[:100]}' is kept")

    async def explain(self, request: Request) -> Response:
        """What would become of the body, sent by a caller with the headers of this call."""
        gateway = self._gateway
        body, headers = await request.body(), request.headers.raw
        asked = await forwarded_question(
            body, headers, request.query_params.get("path"), gateway.config.server.max_body
        )
        found = await explain(gateway.router, asked)
        return Response(wire.encode(found), media_type="application/json")

    async def config(self, request: Request) -> Response:
        gateway = self._gateway
        status = gateway.reload_status
        body = {
            "file": gateway.path,
            "config": masked(gateway.config),
            "reload": {"at": status.at, "ok": not status.errors, "errors": status.errors},
        }
        body["reload"]["notes"] = status.notes  # type: ignore[index]
        return Response(json.dumps(body, indent=2), media_type="application/json")

    async def reload(self, request: Request) -> Response:
        status = await self._gateway.reload()
        body = {"ok": not status.errors, "errors": status.errors, "notes": status.notes}
        return JSONResponse(body, 422 if status.errors else 200)

    async def feedback(self, request: Request) -> Response:
        """A person's word on whether the small model of a cascade was right."""
        try:
            said = msgspec.json.decode(await request.body(), type=_Feedback)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(
                f'the body must be {{"request_id": "...", "right": true or false}}: {error}'
            ) from None
        label = self._gateway.router.labels.by_person(said.request_id, said.right)
        if label is None:
            raise NotFound(
                f"no judged answer of a cascade has the id '{said.request_id[:100]}': the last"
                f" {REMEMBERED} are remembered, each until it is labelled"
            )
        return JSONResponse(
            {"policy": label.policy, "small": label.small, "right": label.small_right}
        )

    async def drain(self, request: Request) -> Response:
        self._gateway.drain()
        return JSONResponse({"status": "draining"}, 202)

    def _name(self, request: Request) -> str:
        snapshot = self._gateway.fleet.snapshot
        asked = request.path_params["model"]
        name = snapshot.config.resolve(asked)
        if name is None:
            raise unknown_model(snapshot, asked)
        return name


def _action(actions: dict[str, Callable[..., None]], request: Request) -> Callable[..., None]:
    action = actions.get(request.path_params["action"])
    if action is None:
        raise NotFound(f"possible actions are {', '.join(actions)}")
    return action
