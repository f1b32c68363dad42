# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the whole preflight of the vehicleservice profile costs against stand-ins on this machine.

    .venv/bin/python benchmarks/preflight.py

Real servers answer: nginx with TLS, DNS, Redis, SMTP, PostgreSQL; Stripe, Resend, Supabase and Google are stand-ins. The domain and the addresses are
those of this machine; the rules are the profile's. Prints one JSON object as its last line:

- ``wall_s``: seconds of the playbook from its start to its end, the median of three; goal 15.
- ``remote_runs``: modules that were sent to a host; goal 20.
- ``gates``, ``stopping``: how many gates were asked, and the names of those that stop; goal none.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("", ".venv/collections")]

import yaml

from tests.e2e.servers import Authority, Cache, Mail, Names, Web, context_of, serving
from tests.e2e.test_network_gates import GOOD as SITE
from tests.e2e.test_network_gates import HOST, QUESTIONS, ZONE, Nginx
from tests.e2e.test_services_gates import GOOD as ANSWERS
from tests.e2e.test_services_gates import SECRET, SENTINEL, USER
from tests.sandbox.runner import run_playbook
from tests.sandbox.world import CHECKOUT, World
from tests.standins.stripe import Stripe
from tests.unit.core.test_env_systems import GOOD, HEX

ROUNDS = 3
PROFILE = CHECKOUT / "inventories/vehicleservice/group_vars/all"
HOOK, EVENTS = "/api/business/wallet/webhook", ["payment_intent.succeeded"]
APIS = ("resend", "supabase_anon", "supabase_service", "google")


def profile() -> dict[str, Any]:
    """Return the rules of the profile, with this machine's domain; name and owner are the sandbox's."""
    text = "\n".join((PROFILE / file).read_text(encoding="utf-8").replace("---\n", "") for file in ("main.yml", "env.yml"))
    given = yaml.safe_load(text.replace("{{ vehicleservice_domain }}", HOST))
    del given["vehicleservice_domain"], given["app_name"], given["app_env_owner"], given["app_env_file"]
    return {**given, "app_public_url": QUESTIONS["url"]}


def environment(world: World, stripe: Stripe) -> dict[str, str]:
    """Return an environment that fits the profile: this machine's database, and an account at the stand-in."""
    password = HEX[:32]
    world.psql(f"ALTER ROLE wallet PASSWORD '{password}'")
    account = stripe.account()
    stripe.endpoint(account, f"{QUESTIONS['url']}{HOOK}", [*EVENTS, "charge.refunded", "charge.dispute.created"])
    stripe.event(account, EVENTS[0], delivered=True)
    values = {name: value.replace("vehicleservice.test", HOST) for name, value in GOOD["vehicleservice"].items()}
    values["DATABASE_URL"] = f"postgresql://wallet:{quote(password, safe='')}@127.0.0.1:{world.facts['ports']['postgres']}/wallet"
    values["STRIPE_SECRET_KEY"], values["NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY"] = stripe.key(account), stripe.key(account, "pk")
    return values


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    world = World(folder / "world", tools=CHECKOUT / ".cache" / "tools")
    try:
        world.up()
        authority = Authority(folder)
        site, local = authority.issue("site", [HOST]), authority.issue("local", ["127.0.0.1"])

        def answer(request: Any) -> tuple[int, list[tuple[str, str]], str]:
            status, said = ANSWERS[request.path[1:].partition("/")[0]]
            return status, [], json.dumps(said)

        servers = (
            Nginx(folder / "nginx", site, SITE, "return 301 https://$host$request_uri;"),
            Names({**ZONE, (HOST, "A"): ["127.0.0.1"]}),
            Cache(folder, SENTINEL.format("redis")),
            Mail(USER, SECRET, context_of(local)),
            Web(answer, context_of(local)),
        )
        with serving(*servers) as (nginx, names, cache, mail, web), Stripe().running() as stripe:
            values = environment(world, stripe)
            values.update({"REDIS_URL": cache.url, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mail.port), "SMTP_USER": USER, "SMTP_PASSWORD": SECRET})
            values.update({"GOOGLE_CLIENT_ID": "1-a.apps.googleusercontent.com", "GOOGLE_CLIENT_SECRET": f"GOCSPX-{HEX[:20]}"})
            env_file = folder / "app.env"
            env_file.touch(mode=0o600)
            env_file.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()), encoding="utf-8")
            variables = {
                **profile(),
                **{f"preflight_{name}": value for name, value in QUESTIONS.items() if name != "url"},
                "release_version": "v1.0.0",
                "canary_accept_blind": True,
                "app_env_file": str(env_file),
                "preflight_report": str(folder / "told"),
                "preflight_connect_to": nginx.places,
                "preflight_tls_ca": str(authority.ca),
                "preflight_resolvers": [names.address],
                "preflight_dns": [{"name": HOST, "values": ["127.0.0.1"]}],
                "preflight_mail": [{"domain": HOST, "spf": ["mail.test"]}],
                "preflight_postgres": {"role_may": ["superuser"]},
                "preflight_redis": {},
                "preflight_smtp": {"ca": str(authority.ca)},
                "preflight_sentry_var": "SENTRY_DSN",
                "preflight_apis": {name: {"base": f"{web.url}/{name}", "ca": str(authority.ca)} for name in APIS},
                "preflight_stripe_mode": "live",
                "preflight_stripe_publishable_vars": ["NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY"],
                "preflight_stripe_client_id_var": "STRIPE_CONNECT_CLIENT_ID",
                "preflight_stripe_webhooks": [{"path": HOOK, "events": EVENTS}],
                "preflight_stripe_api_base": stripe.url,
                "preflight_stripe_connect_base": stripe.url,
            }
            took = []
            for turn in range(ROUNDS):
                (folder / f"run{turn}").mkdir()
                began = time.monotonic()
                run = run_playbook(world, folder / f"run{turn}", "preflight", (), 0, variables)
                took.append(time.monotonic() - began)
            if not (folder / "told/preflight.json").exists():
                raise SystemExit(run.text[-3000:])
            found = json.loads((folder / "told/preflight.json").read_text(encoding="utf-8"))["findings"]
        print("\n".join(f"{each['gate']}: {each['sentence']}" for each in found if each["stops"]))
        figures = {"wall_s": round(statistics.median(took), 1), "remote_runs": len(run.remote_runs()), "gates": len(found)}
        print(json.dumps({**figures, "stopping": [each["gate"] for each in found if each["stops"]]}))
    finally:
        world.wipe()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
