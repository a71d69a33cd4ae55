// Prometheus' text format, as far as this page needs it.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** The samples of an exposition: `sum(name, labels)` adds up those that have these labels. */
export function samples(exposition) {
  const found = [];
  for (const written of exposition.split("\n")) {
    const parts = SAMPLE.exec(written);
    if (parts) found.push({ name: parts[1], labels: labels(parts[2] || ""), value: Number(parts[3]) });
  }
  return {
    sum: (name, wanted = {}) =>
      found
        .filter((sample) => sample.name === name && Object.entries(wanted).every(([key, value]) => sample.labels[key] === value))
        .reduce((total, sample) => total + sample.value, 0),
  };
}

const labels = (written) => Object.fromEntries([...written.matchAll(LABEL)].map(([, name, value]) => [name, value]));
