// The page works without this file; it makes sending, streaming and menus smooth.
import Alpine from "@alpinejs/csp";
import htmx from "htmx.org";
import "./chat.js";
import "./frame.js";
import { enrich } from "./rich.js";
import { follow } from "./stream.js";
import { localise } from "./times.js";

htmx.onLoad(follow);
htmx.onLoad(enrich);
htmx.onLoad(localise);
Alpine.start();
