// Asks the server. A question that a newer one of the same view replaces is given up.

export class Problem extends Error {}

export async function ask(name, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== "" && value !== null && value !== undefined && value !== false) query.set(key, value === true ? "1" : value);
  }
  const text = query.toString();
  let response;
  try {
    response = await fetch(`/api/${name}${text ? `?${text}` : ""}`, { signal, headers: { accept: "application/json" } });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Problem("The server does not answer: does otel-perf view still run?");
  }
  if (response.status === 401) throw new Problem("The token is no longer known: open the address that otel-perf view printed.");
  let answer;
  try {
    answer = await response.json();
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Problem(`The server answered ${response.status}.`);
  }
  if (!response.ok) throw new Problem(answer.problem || `The server answered ${response.status}.`);
  return answer;
}

// What is asked for a part of a screen: nothing where the screen was left meanwhile, and what went wrong in its place.
export async function unlessLeft(work, said) {
  try {
    await work();
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) throw problem;
    said(problem.message);
  }
}
