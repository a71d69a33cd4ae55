// Numbers and times as people read them.

const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** 12.3 kB */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    count /= 1000;
    if (count < 1000 || unit === "GB") return `${count.toPrecision(3)} ${unit}`;
  }
}

/** A few digits without a tail of zeros, and powers of ten for what is very small. */
export function number(value) {
  if (value === 0 || Math.abs(value) >= 0.001) return String(Number(value.toPrecision(value >= 1000 ? 4 : 3)));
  const [digits, power] = value.toExponential(1).split("e-");
  return `${digits.replace(".0", "")}·10⁻${[...power].map((digit) => RAISED[digit]).join("")}`;
}

/** 350 ms, 1.24 s, 3 min */
export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${number(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${number(value / 3600)} h`;
}

/** 97 % */
export const share = (value) => `${Math.round(value * 1000) / 10} %`;

/** 1 document, 2 documents */
export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** 5 min ago, from seconds since 1970. */
export function ago(time) {
  const passed = Math.max(0, Date.now() / 1000 - time);
  if (passed < 45) return "just now";
  if (passed < 5400) return `${Math.max(1, Math.round(passed / 60))} min ago`;
  return passed < 129_600 ? `${Math.round(passed / 3600)} h ago` : `${Math.round(passed / 86_400)} days ago`;
}

/** The date and time of the place where the page is read. */
export const moment = (time) => new Date(time * 1000).toLocaleString();
