"""Gives a fresh control plane one thing of each kind for the callers, and others whose ids the tests are told."""

import os
import pathlib
import sys
import uuid

import requests

API = sys.argv[1] + "/api/v1/"
FOLDER = pathlib.Path(sys.argv[2])
ADMINISTRATOR = os.environ["HTTVPS_CONTROL__BOOTSTRAP_KEY"]


def post(path, body, token=ADMINISTRATOR):
    response = requests.post(API + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=20)
    if not response.ok:
        sys.exit(f"error: {path} was answered {response.status_code}: {response.text}")
    return response.json() if response.content else None


def make(name, code, address):
    """One thing of each kind."""
    region = post("admin/regions", {"code": code, "name": name})
    plan = post("admin/plans", {"name": name, "traffic_limit_gb": 100})
    user = post("admin/users", {"identifier": f"{name.lower()}@example.com"})
    subscription = post("admin/subscriptions", {"user_id": user["id"], "plan_id": name, "days": 30})
    device = post("admin/devices", {"user_id": user["id"]})
    activation = post("admin/codes", {"user_id": user["id"]})
    node = post(
        "admin/nodes",
        {"region": code, "internal_ip": address, "port": 8388, "method": "chacha20-ietf-poly1305", "password": "secret"},
    )
    gateway = post("admin/gateways", {"name": f"{code}-1", "region": code})
    endpoint = post("admin/endpoints", {"gateway_id": gateway["id"], "host": f"{code}.example.com", "path": "/k3bR9"})
    post("outline/heartbeat", {"node_id": node["id"], "healthy": True, "settled": True}, gateway["token"])
    session = str(uuid.uuid4())
    hello = {"device_id": device["id"], "access_token": device["access_token"], "region": code}
    verdict = post("auth/validate-device", {**hello, "assign": True, "session_id": session}, gateway["token"])
    if not verdict["ok"]:
        sys.exit(f"error: no session: {verdict}")
    named = {
        "region": [region["id"], code],
        "plan": [plan["id"], name],
        "gateway": [gateway["id"], f"{code}-1"],
        "session": [session],
    }
    for kind, thing in [
        ("user", user),
        ("subscription", subscription),
        ("device", device),
        ("code", activation),
        ("node", node),
        ("endpoint", endpoint),
    ]:
        named[kind] = [thing["id"]]
    return named, user, gateway["token"], device["access_token"]


def main():
    kept, user, gateway, device = make("Standard", "eu-1", "10.0.0.5")
    known, *_ = make("Basic", "us-1", "10.0.1.5")
    other = post("admin/devices", {"user_id": user["id"]})
    activation = post("admin/codes", {"user_id": user["id"]})
    tokens = post("auth/enroll", {"code": activation["code"], "device_uuid": "installation", "platform": "android"})
    known |= {
        "own_device": [other["id"]],
        "caller": [user["id"]],
        "caller_device": kept["device"],
        "caller_session": kept["session"],
        "caller_token": [device],
        "refresh_token": [tokens["refresh_token"]],
        "activation_code": [post("admin/codes", {"user_id": user["id"]})["code"]],
        "invitation": [post("admin/gateways/invite", {"name": "eu-1-2", "region": "eu-1"})["enroll_token"]],
    }
    for kind, names in known.items():
        (FOLDER / f"{kind}.dict").write_text("".join(f'"{name}"\n' for name in names))
    print(f"HTTVPS_ST_GATEWAY={gateway}")
    print(f"HTTVPS_ST_DEVICE={device}")
    print(f"HTTVPS_ST_KEPT={','.join(name for names in kept.values() for name in names)}")


main()
