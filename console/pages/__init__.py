"""Pages of the console, one module a subject; `starloom.console.app` collects their routers."""
