// On a narrow screen charts begin at their newest day, and the navigation shows where we are.

for (const chart of document.querySelectorAll(".chart > .scroll")) chart.scrollLeft = chart.scrollWidth;

const here = document.querySelector(".top nav [aria-current]");
const tabs = here?.closest("ul");
if (tabs) tabs.scrollLeft += here.getBoundingClientRect().left - tabs.getBoundingClientRect().left - (tabs.clientWidth - here.offsetWidth) / 2;
