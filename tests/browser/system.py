"""The system under test: updates, operators' commands, and rows as other programs write them."""

import json
import os
import subprocess
import urllib.error
import urllib.request


class System:
    def __init__(self):
        self.url = os.environ["URL"].rstrip("/")
        self.token = os.environ["TOKEN"]
        self.database = os.environ["SDB_DATABASE_URI"]

    def get(self, path, headers=None):
        """The status, the headers and the text of an answer."""
        request = urllib.request.Request(self.url + path, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def update(self, name, region, impact, text="Requests fail"):
        """Reports a component; returns when the outcome is known."""
        body = {
            "name": name,
            "impact": impact,
            "text": text,
            "attributes": [{"name": "region", "value": region}],
        }
        request = urllib.request.Request(
            self.url + "/api/v1/component_status",
            data=json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "Prefer": "wait=20",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            if answer.status not in (200, 201):
                raise RuntimeError(f"an update of {name} is answered {answer.status}")

    def operator(self, *arguments):
        """An operator's command."""
        subprocess.run(["worker", *arguments], check=True, stdout=subprocess.DEVNULL)

    def sql(self, statement):
        """As another program that writes to the tables."""
        subprocess.run(
            ["psql", self.database, "-q", "-v", "ON_ERROR_STOP=1", "-c", statement], check=True
        )

    def components(self):
        return json.loads(self.get("/api/v1/component_status")[2])
