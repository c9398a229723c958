"""A list of URLs is captioned from a web server; what must not be reached fails alone, with one line."""

from pathlib import Path

from tests.journeys.cli_runner import CliRunner
from tests.support.web import web_server


def test_a_list_of_urls_is_captioned_and_a_redirect_to_a_metadata_service_is_refused(
    runner: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    images = sorted(photographs.iterdir())[:3]
    with web_server(tmp_path) as server:
        runner.environment |= server.settings
        server.answers |= {f"/{i}": (200, {"Content-Type": "text/plain"}, p.read_bytes()) for i, p in enumerate(images)}
        server.answers["/steal.jpg"] = (302, {"Location": "https://169.254.169.254/latest/meta-data/iam"}, b"")
        paths = [*(f"/{i}" for i in range(3)), "/steal.jpg", "/none.jpg"]
        (tmp_path / "urls.txt").write_text("".join(f"{server.url}{path}\n" for path in paths))
        counts = runner.submit("--from-file", str(tmp_path / "urls.txt"))
        assert (counts["captioned"], counts["failed"]) == (3, 2)
        assert server.requests == {"/0": 1, "/1": 1, "/2": 1, "/steal.jpg": 1, "/none.jpg": 1}

        failures = runner.producer("failures").out
        assert failures.count("\n") == 3  # with the names of the columns
        assert f"{server.url}/steal.jpg\tforbidden\tits host leads to 169.254.169.254, which is not public" in failures
        assert f"{server.url}/none.jpg\tmissing" in failures

        again = runner.submit("--from-file", str(tmp_path / "urls.txt"))
        assert (again["known"], again["failed"]) == (3, 2)
        assert server.requests["/0"] == 1
        server.answers["/0"] = server.answers["/1"]
        verified = runner.submit("--verify", "--from-file", str(tmp_path / "urls.txt"))
        assert (verified["known"], verified["reused"]) == (2, 1)
        shown = runner.producer("show", f"{server.url}/0", "--json").json
        assert shown["caption"] == runner.producer("show", f"{server.url}/1", "--json").json["caption"]
