// Times in the reader's own zone and language. Without a script they are in UTC, and say so.
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

export function localise(element) {
  const today = new Date().toDateString();
  for (const time of element.querySelectorAll("time[data-local]")) {
    const at = new Date(time.dateTime);
    time.textContent = (at.toDateString() === today ? clock : whole).format(at);
    time.title = whole.format(at);
  }
}
