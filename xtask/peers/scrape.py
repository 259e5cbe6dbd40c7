# SPDX-License-Identifier: Apache-2.0
"""Reads what a proxy tells as others read it: `scrape.py METRICS_URL ACCESS_LOG`.

The metrics go through Prometheus' own parser, every line of the access log through JSON's.
"""

import json
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def main(url, log):
    with urllib.request.urlopen(url, timeout=10) as answer:
        kind, text = answer.headers["content-type"], answer.read().decode()
    assert kind.startswith("text/plain"), kind
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert any(sample.name == "byrnie_requests_total" and sample.value > 0 for sample in samples), text
    assert all(family.type != "unknown" and family.documentation for family in families), text
    assert len({(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}) == len(samples)
    with open(log, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert records and all(isinstance(record, dict) for record in records)
    print(f"{len(families)} families and {len(samples)} samples read by Prometheus' parser; {len(records)} log lines are JSON")


if __name__ == "__main__":
    main(*sys.argv[1:])
