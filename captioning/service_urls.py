"""URLs of the broker and the database, and the secrets and certificates that settings name files for.

No message repeats a password.
"""

from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from captioning.environment import PREFIX
from captioning.errors import UsageError


def sqlite_url(file: Path) -> str:
    """Return the URL of a file. Its name may contain a question mark or a percent sign."""
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def split_url(url: str, of: str) -> SplitResult:
    """Split a URL. Raises ValueError; the message repeats no part of the URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises too, when it is not a number
    except ValueError:  # its message may contain a part of the password
        raise ValueError(f"the port after the host is not a number; {unquoted(of)}") from None
    if parts.fragment:  # the second half of a password with a #
        raise unquoted(of)
    return parts


def with_password(url: str, file: Path | None, of: str) -> str:
    """Insert the password from a file into a URL. Raises UsageError that names the variable and the file."""
    if file is None:
        return url
    name = f"{PREFIX}{of}_PASSWORD_FILE={file}"
    parts = urlsplit(url)
    if not url or url.startswith("sqlite"):
        raise UsageError(f"{name}: {PREFIX}{of}_URL is not set, or needs no password.")
    if parts.password is not None:
        raise UsageError(f"{name}: {PREFIX}{of}_URL contains a password already; remove it from the URL.")
    password = secret_in(file, f"{of}_PASSWORD_FILE")
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def secret_in(file: Path | None, name: str) -> str:
    """Return the text of a file, without a newline at its end; empty without a file.

    Raises UsageError that names the variable, which is `name` with our prefix, and the file.
    """
    if file is None:
        return ""
    where = f"{PREFIX}{name}={file}"
    try:
        text = file.read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}: not UTF-8 text.") from None
    if not text:
        raise UsageError(f"{where}: the file is empty.")
    return text


def check_certificates(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Raise UsageError when a file is not what it should be; Celery would only report that nobody answers."""
    import ssl

    name = f"{PREFIX}BROKER_CA={ca}"
    try:
        context = ssl.create_default_context(cafile=ca)
        name = f"{PREFIX}BROKER_CERTIFICATE={certificate}, {PREFIX}BROKER_KEY={key}"
        if certificate or key:
            context.load_cert_chain(certificate or "", key or "", password=str)  # never ask at the terminal
    except OSError as error:
        reason = "not a valid PEM file" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{name}: {reason}.") from None


def unquoted(of: str) -> ValueError:
    """Return the error for a URL with a password that has special characters."""
    return ValueError(
        "quote special characters in the password with percent signs, @ as %40 and / as %2F,"
        f" or put the password into a file and name it in {PREFIX}{of}_PASSWORD_FILE"
    )
