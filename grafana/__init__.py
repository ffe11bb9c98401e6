"""Grafana's dashboards, made by code: ``python -m grafana.dashboards`` writes grafana/dashboards/*.json."""
