// All that this pack uses of ComfyUI's frontend comes through here.
export { app } from "../../../scripts/app.js";
export { api } from "../../../scripts/api.js";
