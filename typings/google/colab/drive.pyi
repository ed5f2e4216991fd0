def mount(
    mountpoint: str,
    force_remount: bool = ...,
    timeout_ms: int = ...,
    readonly: bool = ...,
) -> None: ...
