import polka from "polka";
import { count } from "./words.js";

const app = polka().get("/words/:text", (request, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(count(decodeURIComponent(request.params.text))));
});
app.listen(process.env.PORT, () => console.log(`listening on port ${app.server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
