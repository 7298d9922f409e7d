"use strict";
// The formula of report/money.py, with the numbers that the reader types.
const measured = JSON.parse(document.getElementById("measured").textContent);
const inputs = [...document.querySelectorAll("[data-assumed]")];
function year(site, a) {
  const times = 365 / Math.max(site.days, 1);
  const hours = (site.seconds / 3600) * times;
  const gigabytes = ((site.sent + site.received) / 1e9) * times;
  const heads = site.rounds * times;
  const energy = (a.overhead * (a.busy_watts * hours + a.idle_watts * 8760)) / 1000 + a.energy_per_gb * gigabytes;
  const money = a.staff_hours * a.staff_rate + a.machine + energy * a.energy_price;
  return { energy, carbon: energy * a.carbon, money, per_head: heads ? money / heads : null, break_even: a.value_of_a_point ? money / a.value_of_a_point : null };
}
function shown() {
  const a = Object.fromEntries(inputs.map((input) => [input.dataset.assumed, Math.max(0, Number(input.value)) || 0]));
  const places = { energy: 1, carbon: 1, money: 0, per_head: 2, break_even: 2 };
  let total = 0;
  for (const site of measured) {
    const told = year(site, a);
    total += told.money;
    const row = [...document.querySelectorAll("#years tr")].find((tr) => tr.dataset.site === site.site);
    for (const [cell, digits] of Object.entries(places)) {
      row.querySelector(`[data-cell=${cell}]`).textContent = told[cell] === null ? "–" : told[cell].toFixed(digits);
    }
  }
  document.querySelector("[data-total=money]").textContent = Math.round(total).toLocaleString("en-US");
}
inputs.forEach((input) => input.addEventListener("input", shown));
